"""Encoded samples in files, for data that is read by many: written once by `anyformer prepare`, read by a Mixture.

A shard is tensors, and the manifest JSON: nothing in them is code and nothing is unpickled.
"""
