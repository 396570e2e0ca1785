"""REN without each of its mechanisms: trained alike, attacked alike, compared image by image.

``arms`` says what is left out, ``single`` trains and evaluates one (arm, seed), ``workers`` does so in
processes, ``report`` compares, and ``command`` is all of it.
"""
