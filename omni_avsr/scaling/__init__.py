"""From runs of different cost to a law of their error, and from the law to a plan for a budget."""
