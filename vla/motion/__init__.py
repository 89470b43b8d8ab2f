"""Human motion: skeletons, clips of them, and the numbers a policy is trained on. Imports nothing of robots."""
