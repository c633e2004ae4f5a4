"""The usage of models by tenants: live calls are recorded, deltas rolled up, and sums read."""
