"""What routes do besides splitting: timeouts, retries, headers, faults and so on, as a part of the traffic.

May import matching, basics and analysis. Never in here: where in an object a route stands (mesh).
"""
