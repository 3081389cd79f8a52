// The fibres behind shim.h, and what stands for CUB. One host thread runs everything.
#include "shim.h"

#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

namespace shim {

Index thread_index, block_index;

namespace {

constexpr size_t STACK = 256 << 10, SHARED = 228 << 10;
constexpr int WARP = 32, MAX_THREADS = 1024;

enum class State { READY, AT_BARRIER, IN_WARP, ENDED };

struct Fibre {
  ucontext_t context;
  char* stack;
  State state;
};

struct Warp {
  uint32_t words[WARP], incoming[WARP];
  int arrived, kind;
};

Schedule schedule = Schedule::FORWARD;
std::mt19937 random_source;
std::vector<Fibre> fibres;
std::vector<Warp> warps;
ucontext_t scheduler;
int current, num_threads, at_barrier;
const std::function<void()>* kernel;
alignas(256) char shared_memory[SHARED];

void fail(const char* why) {
  std::fprintf(stderr, "shim: block %u, thread %d: %s\n", block_index.x, current, why);
  std::abort();
}

void enter() {
  (*kernel)();
  fibres[current].state = State::ENDED;
  swapcontext(&fibres[current].context, &scheduler);
}

void wait_as(State state) {
  fibres[current].state = state;
  swapcontext(&fibres[current].context, &scheduler);
}

std::vector<int64_t> order_of(int64_t count) {
  std::vector<int64_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  if (schedule == Schedule::REVERSE) std::reverse(order.begin(), order.end());
  if (schedule == Schedule::RANDOM) std::shuffle(order.begin(), order.end(), random_source);
  return order;
}

char* new_stack() {
  void* memory = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) fail("no memory for stacks");
  return static_cast<char*>(memory);
}

void start_block() {
  std::memset(shared_memory, 0xff, SHARED);
  while (static_cast<int>(fibres.size()) < num_threads) fibres.push_back({{}, new_stack(), State::ENDED});
  warps.assign((num_threads + WARP - 1) / WARP, Warp{});
  at_barrier = 0;
  for (int i = 0; i < num_threads; ++i) {
    Fibre& f = fibres[i];
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack;
    f.context.uc_stack.ss_size = STACK;
    f.context.uc_link = nullptr;
    makecontext(&f.context, enter, 0);
    f.state = State::READY;
  }
}

// A barrier opens when nobody but those at it is left; so a thread that has ended does not hold it up, as on a GPU.
void open_barrier(int ended) {
  if (at_barrier == 0 || at_barrier + ended < num_threads) return;
  at_barrier = 0;
  for (int i = 0; i < num_threads; ++i)
    if (fibres[i].state == State::AT_BARRIER) fibres[i].state = State::READY;
}

void run_block() {
  start_block();
  for (int ended = 0; ended < num_threads;) {
    bool moved = false;
    ended = 0;
    for (int64_t i : order_of(num_threads)) {
      if (fibres[i].state == State::READY) {
        moved = true;
        current = static_cast<int>(i);
        thread_index = {static_cast<unsigned>(i), 0, 0};
        swapcontext(&scheduler, &fibres[i].context);
      }
      ended += fibres[i].state == State::ENDED;
    }
    open_barrier(ended);
    if (!moved && ended < num_threads && at_barrier == 0)
      if (std::none_of(fibres.begin(), fibres.begin() + num_threads,
                       [](const Fibre& f) { return f.state == State::READY; }))
        fail("threads wait for one that never comes");
  }
}

}  // namespace

void set_schedule(Schedule wanted, unsigned seed) {
  schedule = wanted;
  random_source.seed(seed);
}

void run(int64_t num_blocks, int threads, const std::function<void()>& body) {
  if (threads < 1 || threads > MAX_THREADS) fail("no such block size");
  kernel = &body;
  num_threads = threads;
  for (int64_t block : order_of(num_blocks)) {
    block_index = {static_cast<unsigned>(block), 0, 0};
    run_block();
  }
}

void block_barrier() {
  ++at_barrier;
  wait_as(State::AT_BARRIER);
}

const uint32_t* exchange(unsigned mask, uint32_t word, int kind) {
  if (mask != 0xffffffffu) fail("only whole warps are supported");
  int index = current / WARP, lane = current % WARP;
  Warp& warp = warps[index];
  int size = std::min(WARP, num_threads - index * WARP);
  if (warp.arrived && warp.kind != kind) fail("lanes of a warp are in different collectives");
  warp.kind = kind;
  warp.incoming[lane] = word;
  if (++warp.arrived < size) {
    wait_as(State::IN_WARP);
  } else {
    std::memcpy(warp.words, warp.incoming, sizeof warp.words);
    warp.arrived = 0;
    for (int i = index * WARP; i < index * WARP + size; ++i)
      if (fibres[i].state == State::IN_WARP) fibres[i].state = State::READY;
    // The last to come goes behind the others, so that nobody sees it run ahead for free.
    fibres[current].state = State::READY;
    swapcontext(&fibres[current].context, &scheduler);
  }
  return warp.words;
}

void* shared_bytes(size_t size) {
  if (size > SHARED) fail("too much shared memory");
  return shared_memory;
}

}  // namespace shim
