# The CUDA kernels, half of the compiler's time. S4D_CUDA = OFF leaves them out, ON fails without nvcc, AUTO builds them
# where it is found (scripts/setup.sh asks for that where torch has CUDA): pip install . -C cmake.define.S4D_CUDA=ON
# The module imports on any machine: the CUDA runtime is linked in, and looks for a driver only when it is called.
set(S4D_CUDA OFF CACHE STRING "Build the CUDA kernels: OFF, AUTO or ON")
set_property(CACHE S4D_CUDA PROPERTY STRINGS OFF AUTO ON)
if(S4D_CUDA STREQUAL "OFF")
  return()
endif()

# Before the language is looked for, or CMake picks an architecture of its own.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90-real 90-virtual)
endif()
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  if(S4D_CUDA STREQUAL "ON")
    message(FATAL_ERROR "S4D_CUDA is ON, but no working nvcc was found.")
  endif()
  message(STATUS "No nvcc: scene4d is built without its CUDA kernels.")
  return()
endif()
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)

add_library(s4d_cuda OBJECT cuda/project.cu cuda/bin.cu cuda/sort.cu cuda/raster.cu cuda/raster_vjp.cu
                            cuda/project_vjp.cu cuda/rasterize.cu cuda/neighbours.cu)
target_compile_features(s4d_cuda PRIVATE cuda_std_17)
# Contraction is off, as on the CPU: forward and backward agree to the bit, and so do the stages that count and fill.
target_compile_options(s4d_cuda PRIVATE --fmad=false)
set_target_properties(s4d_cuda PROPERTIES POSITION_INDEPENDENT_CODE ON CUDA_VISIBILITY_PRESET hidden)
target_sources(_ext PRIVATE bind_cuda.cpp $<TARGET_OBJECTS:s4d_cuda>)
target_compile_definitions(_ext PRIVATE S4D_CUDA)
target_link_libraries(_ext PRIVATE CUDA::cudart_static)
