"""What a proven network costs to run: its fast forms, artifacts, measurements, and which of them to take."""
