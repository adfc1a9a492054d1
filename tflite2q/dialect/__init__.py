"""The dialect: the intermediate representation into which models are read and from which they are written."""
