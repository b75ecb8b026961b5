"""What is wrapped around a plain network to make it fit: the network does not know it.

offload     components on the device only while they are used
blocks      memory given back as soon as it is free
quantize    the weights of linear layers in eight bits
"""
