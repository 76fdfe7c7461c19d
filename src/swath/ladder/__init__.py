"""The ladder: from Rosenblatt's perceptron to a map, a lesson a module."""
