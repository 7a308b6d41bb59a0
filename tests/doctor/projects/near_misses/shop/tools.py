def send_quietly(signal):
    signal.send_robust(sender=None)
