"""Lower precisions of an engine, each made from its FP32 graph, with inputs and outputs left in FP32.

``fp16`` puts casts into the graph, ``int8`` pairs of QuantizeLinear and DequantizeLinear: a strongly typed
graph is the one form that every TensorRT takes. ``ranges`` measures the values that an engine really sees,
``search`` chooses by measured error how they are quantized and which layers are not, ``layers`` says where
an error arises.
"""
