"""From checkpoint to bundle: each purifier and classifier as an ONNX file of its own, held to its torch twin.

``onnx`` writes one engine's file.  ``draws``, ``golden``, ``parity`` and ``gate`` say what an engine is fed
and how far off it may be.  ``verify`` runs these checks on a bundle; ``writer`` publishes only what passes.
"""
