/* Both stacks of the calling thread, each frame of C where it was called.
 *
 *   the machine's                          Python's, of which the loop runs several
 *   PyList_New, list_subscript             C functions that f() called
 *   _PyEval_EvalFrameDefault               f, g: g called f, and the loop goes on
 *   _PyEval_Vector, ..., list_sort         C functions that h() called
 *   _PyEval_EvalFrameDefault               h, <module>
 *
 * A Python frame that a call of the loop began with is an entry: there the C functions follow
 * that made this call.  Each frame takes the unwinder some hundred nanoseconds; those that
 * are further out than MAX_NATIVE_FRAMES are left out.
 *
 * The unwinder is the compiler's, loaded when it is first needed, so that no other program has
 * it.  Owns the addresses of both. */

#include <dlfcn.h>
#include <unwind.h>

static struct {
    _Unwind_Reason_Code (*backtrace)(_Unwind_Trace_Fn, void *);
    _Unwind_Word (*address_of)(struct _Unwind_Context *);
    _Unwind_Ptr (*function_of)(struct _Unwind_Context *);
    uintptr_t loop;             /* the function that runs Python code */
} unwinder;

/* 0; -1: there is none. */
int
python_find_unwinder(void)
{
    void *library = unwinder.backtrace != NULL ? NULL
        : dlopen("libgcc_s.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library != NULL) {
        *(void **)&unwinder.address_of = dlsym(library, "_Unwind_GetIP");
        *(void **)&unwinder.backtrace = dlsym(library, "_Unwind_Backtrace");
        *(void **)&unwinder.function_of = dlsym(library, "_Unwind_GetRegionStart");
        unwinder.loop = (uintptr_t)dlsym(RTLD_DEFAULT, "_PyEval_EvalFrameDefault");
    }
    return unwinder.backtrace != NULL && unwinder.address_of != NULL
        && unwinder.function_of != NULL ? 0 : -1;
}

struct code_range python_cold_loop;

static int
is_in_cold_loop(const void *address)
{
    return (uintptr_t)address >= python_cold_loop.start
        && (uintptr_t)address < python_cold_loop.end;
}

struct native_stack {
    const void *caller;         /* of the API, whose frame is the first; then NULL */
    unsigned length, next;      /* next: the first one that has no place yet */
    const void *addresses[MAX_NATIVE_FRAMES];   /* NULL: in the loop */
};

static _Unwind_Reason_Code
add_native_frame(struct _Unwind_Context *context, void *arg)
{
    struct native_stack *stack = arg;
    const void *address = (const void *)(uintptr_t)unwinder.address_of(context);
    if (stack->caller != NULL && address != stack->caller) {
        return _URC_NO_REASON;
    }
    stack->caller = NULL;
    address = (const char *)address - 1;        /* a call returns to behind it */
    int is_loop = unwinder.function_of(context) == unwinder.loop || is_in_cold_loop(address);
    stack->addresses[stack->length++] = is_loop ? NULL : address;
    return stack->length == MAX_NATIVE_FRAMES ? _URC_END_OF_STACK : _URC_NO_REASON;
}

/* The C functions up to a call of the loop; how many. */
static unsigned
add_c_functions(struct trace_place *places, struct native_stack *stack)
{
    unsigned n = 0;
    while (stack->next < stack->length) {
        const void *address = stack->addresses[stack->next++];
        if (address == NULL) {
            break;
        }
        places[n].instruction = address;
        places[n].code = NATIVE_CODE;
        n++;
    }
    return n;
}

/* There is room for MAX_NATIVE_FRAMES places more than Python frames are wanted. */
static unsigned
capture_with_native(struct trace_place *places, unsigned max_places, unsigned *total,
                    int has_gil)
{
    struct native_stack stack = {.caller = tracer_caller()};
    PyThreadState *tstate = thread_state(has_gil);
    frame_type *frame = current_frame(tstate);
    unsigned left = max_places - MAX_NATIVE_FRAMES;
    unwinder.backtrace(add_native_frame, &stack);
    unsigned n = add_c_functions(places, &stack);
    for (; frame != NULL && left > 0; left--) {
        places[n].instruction = frame_instruction(frame);
        places[n].code = frame_code(frame);
        n++;
        if (frame_is_entry(frame)) {
            n += add_c_functions(places + n, &stack);
        }
        frame = first_frame_that_has_begun(caller_of(frame));
    }
    *total = n + (frame != NULL ? count_frames(tstate, frame) : 0);
    return n;
}

const struct trace_source python_frames_with_native = {
    .capture = capture_with_native,
    .describe = describe,
    .name_function = name_function,
    .names_are_utf8 = NAMES_ARE_UTF8,
};
