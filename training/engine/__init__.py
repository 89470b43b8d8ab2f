"""The device's side of a step: which parameters train, the prepared policy, its averages, what guards it."""
