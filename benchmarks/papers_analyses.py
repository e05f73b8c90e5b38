FIGURES = {}
class Trainings:
    def __init__(self, *a): pass
