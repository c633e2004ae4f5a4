"""HTTP as the rooms see it: requests, responses, and routes that are declared once."""
