// Adds the CUDA functions to the module; bind.cpp calls it where S4D_CUDA is defined.
#pragma once

#include <nanobind/nanobind.h>

void bind_cuda(nanobind::module_& m);
