"""What can be said of objects without changing them: findings, who answers a request, what a plan is bound to, differences.

May import mesh and what lies below it. Never in here: the asking; whoever asks hands the objects in.
"""
