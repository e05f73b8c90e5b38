"""Training on several processes ("ranks"), of one machine or of many, by ``torch.distributed``.

Each rank has the users and the items of one range of rows, with their embeddings, the moments of Adam, the interactions
of its users, and nothing of the others'. ``docs/distributed.md`` says what travels, how much, and what happens when a
rank is lost. Nothing here is imported by a single process.
"""
