"""From checkpoint to bundle: each purifier and classifier as an ONNX file of its own, held to its torch twin.

``onnx`` writes one engine's file.  ``draws``, ``golden``, ``parity`` and ``gate`` say what an engine is fed
and how far off it may be.  ``verify`` runs these checks on a bundle; ``writer`` publishes only what passes.

``lower`` adds FP16 and INT8 engines, which ``precision`` makes of the FP32 files: ``calibration`` says on
which images, ``parity_fp32`` and ``gate_accuracy`` what they cost.  ``foreign`` puts any ONNX classifier
behind the purifiers.
"""

from sdk.host import telemetry

telemetry.disable()  # before any inference engine is imported
