from shop.heard_of import told

print "a file of another Python"
told.send(sender=None)
