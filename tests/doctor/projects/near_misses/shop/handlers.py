class Single:
    made = None

    def __new__(cls):
        if cls.made is None:
            cls.made = super().__new__(cls)
        return cls.made

    def __call__(self, sender, **kwargs):
        pass

    def on_save(self, sender, **kwargs):
        pass
