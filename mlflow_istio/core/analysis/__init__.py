"""The statistics: tests that stay valid however often one looks, intervals, shadow comparison. Numbers in, numbers out.

May import errors, core.basics, numpy and scipy. Never in here: an endpoint, a deployment or a source of metrics.
"""
