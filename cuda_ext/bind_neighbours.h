// Adds the functions of neighbours.h to the module; bind.cpp calls it.
#pragma once

#include <nanobind/nanobind.h>

void bind_neighbours(nanobind::module_& m);
