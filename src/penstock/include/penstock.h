/*
 * penstock.h - the interface between Penstock and a model that is a shared library.
 *
 * A library exports the five functions at the end of this file. Penstock loads it into a process of its own, creates
 * one model, calls its predict function for each call, and destroys it. No global state is needed.
 *
 * Rules that hold everywhere:
 *   - Text is UTF-8. Every length is a number of bytes and stands beside its pointer. Text that Penstock passes is also
 *     followed by a zero byte, which its length does not count; text that the library passes need not be.
 *   - A pointer may be null exactly where its length is 0, unless its comment states otherwise.
 *   - Memory that Penstock passes belongs to Penstock and is valid until the called function returns. Memory that the
 *     library passes belongs to the library and must stay valid as long as the comment on the function states.
 *   - A function may end only by returning: no C++ exception, no longjmp, no exit.
 *
 * This file is C89 and C++. See docs/native-models.md for a guide, and examples/models for a library in each.
 */
#ifndef PENSTOCK_H
#define PENSTOCK_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Puts a string literal into a penstock_bytes: penstock_bytes type = PENSTOCK_TEXT("image/png"); */
#define PENSTOCK_TEXT(literal) { (literal), sizeof(literal) - 1 }

/* [interface] Penstock itself reads the declarations from here on, so they hold no other preprocessor directives. */

#define PENSTOCK_ABI 1 /* the version of this interface; another number means that libraries must be compiled again */

/* Values that create and predict return. */
#define PENSTOCK_OK 0
#define PENSTOCK_FAILED 1    /* the model failed; the error states why */
#define PENSTOCK_BAD_INPUT 2 /* the input is wrong; the error states why, and in which field */
#define PENSTOCK_CANCELLED 3 /* the call ended early because the caller had gone */

/* Levels of log lines. */
#define PENSTOCK_DEBUG 0
#define PENSTOCK_INFO 1
#define PENSTOCK_WARNING 2
#define PENSTOCK_ERROR 3

typedef struct penstock_bytes {
    const char *data;
    size_t size;
} penstock_bytes;

/* A piece of media: raw bytes, and their place in the JSON, which holds null there. */
typedef struct penstock_part {
    penstock_bytes path;       /* a JSON pointer (RFC 6901), such as "/image" or "/pages/2"; empty: the whole value */
    penstock_bytes media_type; /* such as "image/png"; empty: "application/octet-stream" */
    penstock_bytes name;       /* a file name, or empty */
    const void *data;          /* not followed by a zero byte */
    size_t size;
} penstock_part;

/* The reason of a failure. Its memory is Penstock's, filled with zeros; the library writes into it and sets the lengths. */
typedef struct penstock_error {
    size_t message_size;
    size_t field_size;
    char message[1024]; /* for the caller */
    char field[256];    /* with PENSTOCK_BAD_INPUT: the part of the input, such as "image" or "pages[2].text" */
} penstock_error;

/* One call. */
typedef struct penstock_request {
    penstock_bytes input;       /* JSON that the model's schema allows */
    const penstock_part *parts; /* its media, including those that the caller had written as data: URLs */
    size_t count;               /* of parts */
    penstock_bytes request_id;  /* for the library's own logs; may be empty */
    int streams;                /* not 0: the caller reads chunks as they come */
} penstock_request;

/*
 * Functions that predict may call before it returns, from any thread. Each gets context as its first argument, and copies
 * its other arguments before it returns.
 */
typedef struct penstock_callbacks {
    void *context;
    /* Hand a chunk (JSON, and its media) to the caller. Waits while the caller reads too slowly. If it does not return 0,
       the caller has gone: return soon; the result is ignored. */
    int (*chunk)(void *context, const char *json, size_t size, const penstock_part *parts, size_t count);
    /* Report the progress of the call: any JSON, by convention {"fraction": 0.4}. */
    void (*progress)(void *context, const char *json, size_t size);
    /* Write a line into the model's log. */
    void (*log)(void *context, int level, const char *text, size_t size);
    /* Returns 0 until the caller has gone. Costs next to nothing; call it between steps of long work. */
    int (*cancelled)(void *context);
} penstock_callbacks;

/* The output of one call. The memory is Penstock's, filled with zeros; the memory that it points to is the library's. */
typedef struct penstock_result {
    penstock_bytes json;        /* leave it empty when chunks were the whole output */
    const penstock_part *parts; /* its media */
    size_t count;               /* of parts */
    void *owner;                /* for the library: anything that free_result needs */
} penstock_result;

/* Returns PENSTOCK_ABI as the library was compiled with. */
int penstock_abi(void);

/*
 * Creates the model, once. config is a JSON object: the table "config" of the manifest. *model belongs to the library and is
 * passed to all other functions; null is allowed. The working folder is the manifest's. If it does not return
 * PENSTOCK_OK, no further function is called, so it must leave nothing behind.
 */
int penstock_create(const char *config, size_t size, void **model, penstock_error *error);

/*
 * Runs one call. Several threads call it at a time only if the manifest states a concurrency above 1. The memory that the
 * result points to must stay valid until penstock_free_result.
 */
int penstock_predict(void *model, const penstock_request *request, const penstock_callbacks *callbacks,
                     penstock_result *result, penstock_error *error);

/* Frees the memory of a result. Called once after every predict, also a failed one, from the same thread. */
void penstock_free_result(void *model, penstock_result *result);

/* Frees the model; no further function is called. Not called when the process is killed. */
void penstock_destroy(void *model);

/* [end of interface] */

#ifdef __cplusplus
}
#endif

#endif
