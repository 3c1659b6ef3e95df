"""Documents in, grounded answers out.

This room parses files, cuts them into chunks, indexes them for dense and lexical search, and answers questions with
citations that code has checked. It may import foundation, jobs, trust, selection and gateway, never media or a door.
"""
