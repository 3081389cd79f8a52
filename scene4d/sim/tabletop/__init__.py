"""Our own table in MuJoCo: coloured blocks and plates, a drawer, a lamp, one or two robots of three kinds."""
