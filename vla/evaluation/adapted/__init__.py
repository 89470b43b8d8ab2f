"""What adapters do to a policy of human motion: how well a concept is unlearned, how styles are taken on and blended.

Whoever judges is trained on real clips, and every figure stands beside that of the policy without adapters.
"""
