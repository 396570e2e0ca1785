"""Attacks: gradient, ARC, Square, AutoAttack, and the ball they stay in."""
