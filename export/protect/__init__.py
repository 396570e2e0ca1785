"""From a user's classifier and pictures to a measured bundle: what ``edge-protect`` does.

``accuracy`` checks that the classifier knows the pictures, ``plan`` sizes the training by a measured rate,
``stages`` has each stage's config, ``workspace`` keeps what is finished, and ``steps`` does it all in order.
"""
