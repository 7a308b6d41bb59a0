class Handler:
    def __call__(self, sender, **kwargs):
        pass

    def on_save(self, sender, **kwargs):
        pass
