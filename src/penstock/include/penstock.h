/*
 * penstock.h - the interface between Penstock and a model that is a shared library.
 *
 * A library exports the five functions at the end of this file. Penstock loads it into a process of its own, creates
 * one model, asks it as often as there are calls, and destroys it. No global state is needed.
 *
 * Rules that hold everywhere:
 *   - Text is UTF-8. Every length is a number of bytes and stands beside its pointer. Text that Penstock passes is also
 *     followed by a zero byte, which its length does not count; text that the library passes need not be.
 *   - A pointer may be null exactly where its length is 0, unless said otherwise.
 *   - What Penstock passes belongs to Penstock and is valid until the function that got it returns. What the library
 *     passes belongs to the library and must stay valid as long as the function says.
 *   - Nothing may leave a function but by returning: no C++ exception, no longjmp, no exit.
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

/* What create and predict return. */
#define PENSTOCK_OK 0
#define PENSTOCK_FAILED 1    /* the model cannot do it; the error says why */
#define PENSTOCK_BAD_INPUT 2 /* the input is to blame; the error says why, and its field which part of it */
#define PENSTOCK_CANCELLED 3 /* it ended early because the caller had gone */

/* Levels of log lines. */
#define PENSTOCK_DEBUG 0
#define PENSTOCK_INFO 1
#define PENSTOCK_WARNING 2
#define PENSTOCK_ERROR 3

typedef struct penstock_bytes {
    const char *data;
    size_t size;
} penstock_bytes;

/* A piece of media: raw bytes, and where they stand in the JSON, which holds null there. */
typedef struct penstock_part {
    penstock_bytes path;       /* a JSON pointer (RFC 6901), such as "/image" or "/pages/2"; empty: the whole value */
    penstock_bytes media_type; /* such as "image/png"; empty: "application/octet-stream" */
    penstock_bytes name;       /* a file name, or empty */
    const void *data;          /* not followed by a zero byte */
    size_t size;
} penstock_part;

/* What went wrong. The memory is Penstock's, filled with zeros; the library writes into it and states the lengths. */
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
 * How predict tells something before it returns. Each function gets context as its first argument. They may be called
 * until predict returns, from any thread, and copy what they are given before they return.
 */
typedef struct penstock_callbacks {
    void *context;
    /* Hand a chunk (JSON, and its media) to the caller. Waits while the caller reads too slowly. Not 0: nobody will read
       more, so return soon; what predict then returns does not matter. */
    int (*chunk)(void *context, const char *json, size_t size, const penstock_part *parts, size_t count);
    /* Tell how far the call is: any JSON, by convention {"fraction": 0.4}. */
    void (*progress)(void *context, const char *json, size_t size);
    /* Write a line into the model's log. */
    void (*log)(void *context, int level, const char *text, size_t size);
    /* Not 0: the caller has gone. Costs next to nothing; ask between steps of long work. */
    int (*cancelled)(void *context);
} penstock_callbacks;

/* The answer of one call. The memory is Penstock's, filled with zeros; what it points to is the library's. */
typedef struct penstock_result {
    penstock_bytes json;        /* leave it empty when chunks were the whole answer */
    const penstock_part *parts; /* its media */
    size_t count;               /* of parts */
    void *owner;                /* for the library: whatever free_result needs */
} penstock_result;

/* Returns PENSTOCK_ABI as the library was compiled with. */
int penstock_abi(void);

/*
 * Makes the model, once. config is a JSON object: the table "config" of the manifest. *model is the library's own and is
 * given back in all other functions; null is allowed. The working folder is the manifest's. If it does not return
 * PENSTOCK_OK, no further function is called, so it must leave nothing behind.
 */
int penstock_create(const char *config, size_t size, void **model, penstock_error *error);

/*
 * Runs one call. Only where the manifest states a concurrency above 1 it is called from several threads at a time.
 * What the result points to stays valid until penstock_free_result.
 */
int penstock_predict(void *model, const penstock_request *request, const penstock_callbacks *callbacks,
                     penstock_result *result, penstock_error *error);

/* Frees what a result points to. Called once after every predict, whatever it returned, from the same thread. */
void penstock_free_result(void *model, penstock_result *result);

/* Frees the model; nothing is called after it. Not called when the process is killed. */
void penstock_destroy(void *model);

/* [end of interface] */

#ifdef __cplusplus
}
#endif

#endif
