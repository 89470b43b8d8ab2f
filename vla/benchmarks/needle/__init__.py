"""The needle: a closed-loop benchmark that cannot be solved without its force sensor, and demonstrations of it."""
