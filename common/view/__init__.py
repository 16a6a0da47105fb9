"""Source comparison, diagrams and summaries of networks."""
