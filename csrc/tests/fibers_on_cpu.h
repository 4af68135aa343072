// Switches between stacks, for the emulator's fibers.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace cuda_on_cpu {

// The place where a stack was left. ucontext makes system calls at each switch, and the address
// sanitizer then clears a whole stack's shadow: on x86 a few instructions do the same.
#if defined(__x86_64__)
class Place {
 public:
  // Where the first switch to here calls enter(), which must not return.
  void start(char* stack, size_t size, void (*enter)()) {
    void** top =
        reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(stack + size) & ~uintptr_t{15});
    top_ = top - 8;  // six registers, the address to return to, and that of enter's caller: none
    std::fill(top - 8, top, nullptr);
    top[-2] = reinterpret_cast<void*>(enter);
  }
  static void switch_stack(Place& from, const Place& to) { exchange(&from.top_, to.top_); }

 private:
  // Saves the registers that a call preserves.
  __attribute__((naked, noinline)) static void exchange(void*** /*from*/, void** /*to*/) {
    asm("push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15\n"
        "mov %rsp, (%rdi); mov %rsi, %rsp\n"
        "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp; ret");
  }
  void** top_ = nullptr;
};
#else
class Place {
 public:
  void start(char* stack, size_t size, void (*enter)()) {
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack;
    context_.uc_stack.ss_size = size;
    context_.uc_link = nullptr;
    makecontext(&context_, enter, 0);
  }
  static void switch_stack(Place& from, const Place& to) {
    swapcontext(&from.context_, &to.context_);
  }

 private:
  ucontext_t context_{};
};
#endif

}  // namespace cuda_on_cpu
