"""What people look at: summaries of networks."""
