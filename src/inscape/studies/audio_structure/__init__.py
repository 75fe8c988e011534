"""The audio-structure study: do codec latents have local structure that holds across speakers?"""
