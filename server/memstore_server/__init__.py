"""memstore over HTTP: `settings.Settings` says how, `app.create_app` makes an app, `app.run` a whole process.

Nothing is imported here: settings and logs can be read without loading the model's libraries.
"""
