"""What is trained: data, policy and evaluation. Nothing here knows a launcher, a rank or an optimizer."""
