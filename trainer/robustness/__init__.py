"""What an adaptive attacker leaves of a defence, measured so that the figure can be trusted.

``attacks``, ``arc``, ``square`` and ``autoattack`` make adversarial images against a ``surrogates.Model``.
``quantized`` makes INT8 engines differentiable for them. ``ladder`` climbs them rung by rung and has a
``judges.Judge``, the exported engines where there are any, say what each image is taken for. ``checks``
looks for signs that an attack was too weak, and ``mixture`` measures what randomness adds. ``evaluate``
does all of it by a budget and gives a ``report``, which ``markdown``, ``plots`` and ``publish`` write
down; ``gate`` holds later versions to the ``record`` of it.
"""
