// What forward calls keep for the backward calls of the same token: at most 512 MB, the oldest dropped first.
#pragma once

#include <cstdint>
#include <memory>

#include "view_group.h"

namespace s4d {

void keep(int64_t token, std::unique_ptr<ViewGroup> group);

// Removes and returns it; null if there is none.
std::unique_ptr<ViewGroup> take(int64_t token);

}  // namespace s4d
