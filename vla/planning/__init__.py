"""What a training costs before it is started: parameters, memory, FLOPs, bytes on the wire, and from them a time."""
