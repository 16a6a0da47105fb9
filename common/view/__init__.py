"""What there is to see of a network: its source in every framework, its architecture drawn, its summary."""
