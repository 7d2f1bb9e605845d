"""The toolbox: everything that knows nothing of DreamerV2.

Nothing is imported here, so that configs, environments and replay load without TensorFlow.
"""
