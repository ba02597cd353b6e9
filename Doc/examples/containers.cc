// C++ containers in Python's memory: a std::pmr::memory_resource and an allocator.
//
//     c++ -std=c++17 containers.cc $(pkg-config --cflags --libs pymem)

#include <Python.h>
#include <pymemfaults.h>

#include <cstdio>
#include <map>
#include <memory_resource>
#include <new>
#include <string>
#include <vector>

// The mem domain as a memory resource.  Its blocks are aligned to 16 bytes (8 on 32-bit
// platforms); for more a block is made larger, and keeps where it starts.
class MemResource : public std::pmr::memory_resource {
    static constexpr std::size_t aligned_to = sizeof(void *) >= 8 ? 16 : 8;

    void *do_allocate(std::size_t size, std::size_t alignment) override
    {
        std::size_t extra = alignment > aligned_to ? alignment + sizeof(void *) : 0;
        void *block = size <= PY_SSIZE_T_MAX - extra ? PyMem_Malloc(size + extra)
                                                     : nullptr;
        if (block == nullptr) {
            throw std::bad_alloc();
        }
        if (extra == 0) {
            return block;
        }
        auto start = reinterpret_cast<std::uintptr_t>(block) + sizeof(void *);
        auto aligned = reinterpret_cast<void **>((start + alignment - 1)
                                                 & ~(alignment - 1));
        aligned[-1] = block;
        return aligned;
    }

    void do_deallocate(void *ptr, std::size_t, std::size_t alignment) override
    {
        PyMem_Free(alignment > aligned_to ? static_cast<void **>(ptr)[-1] : ptr);
    }

    bool do_is_equal(const std::pmr::memory_resource &other) const noexcept override
    {
        return dynamic_cast<const MemResource *>(&other) != nullptr;
    }
};

// The same for containers without a memory resource.
template <typename T> struct MemAllocator {
    using value_type = T;
    MemAllocator() = default;
    template <typename U> MemAllocator(const MemAllocator<U> &) {}

    T *allocate(std::size_t n)
    {
        T *p = PyMem_New(T, n);
        if (p == nullptr) {
            throw std::bad_alloc();
        }
        return p;
    }
    void deallocate(T *p, std::size_t) { PyMem_Free(p); }
    template <typename U> bool operator==(const MemAllocator<U> &) const { return true; }
    template <typename U> bool operator!=(const MemAllocator<U> &) const { return false; }
};

static int work()
{
    MemResource resource;
    std::pmr::map<std::pmr::string, std::pmr::vector<double>> table(&resource);
    for (int i = 0; i < 1000; i++) {
        table[std::pmr::string("a key that is not short " + std::to_string(i))]
            .resize(static_cast<std::size_t>(i % 100));
    }
    std::vector<int, MemAllocator<int>> numbers(100000, 7);
    std::size_t sum = numbers.size();
    for (const auto &[key, values] : table) {
        sum += values.size();
    }
    struct alignas(256) Wide { char bytes[256]; };
    std::pmr::vector<Wide> wide(10, &resource);
    bool aligned = reinterpret_cast<std::uintptr_t>(wide.data()) % 256 == 0;
    return aligned && sum == 149500 ? 0 : 1;
}

int main()
{
    PyMemFaults none = {}, some = {};
    PyMemFaultsCounts counts;
    if (PyMemFaults_Start(PYMEM_DOMAIN_MEM, &none) < 0 || work() != 0) {
        return 1;
    }
    PyMemFaults_Count(PYMEM_DOMAIN_MEM, &counts);
    PyMemFaults_Stop(PYMEM_DOMAIN_MEM);
    if (counts.requests < 2500 || counts.blocks != 0) {
        return 2;
    }
    // Where memory runs out std::bad_alloc is thrown, and nothing is left.
    for (some.fail_from = 1; some.fail_from < counts.requests; some.fail_from += 97) {
        PyMemFaultsCounts now;
        bool thrown = false;
        PyMemFaults_Start(PYMEM_DOMAIN_MEM, &some);
        try {
            work();
        }
        catch (const std::bad_alloc &) {
            thrown = true;
        }
        PyMemFaults_Count(PYMEM_DOMAIN_MEM, &now);
        PyMemFaults_Stop(PYMEM_DOMAIN_MEM);
        if (!thrown || now.blocks != 0) {
            return 3;
        }
    }
    std::puts("works");
    return 0;
}
