"""Doors that other software knows: the addresses, requests, replies and errors of OpenAI's and Cohere's APIs.

Each asks the same service as our own routes do, and refuses what memstore cannot do. Unknown fields are taken.
"""
