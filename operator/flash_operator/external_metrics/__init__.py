"""The external metrics API: how a HorizontalPodAutoscaler hears what autoscaling decided.

Only the API server may ask.
"""
