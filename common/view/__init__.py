"""What people look at: summaries of networks, and the same code in every framework."""
