"""By which figures motions of a body are judged, beside what real motions have.

Axis letters: T frames of a clip, J joints, N clips or windows or feature vectors, F features, K columns of figures.
Positions are metres in a right-handed world with y up: a body that faces z has its left at x.
"""
