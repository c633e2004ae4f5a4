/*
 * aiges/wrapper.h - the functions that an Athena Serving engine in C or C++ exports from libwrapper.so.
 *
 * The runtime aiges-native loads the library into a process of its own and calls these functions. All 15 are required.
 *
 *   - A function that returns int returns 0 for success, or a code of the engine's own; wrapperError explains it.
 *   - Memory that Penstock passes is valid until the function returns; copy what is needed later. usrTag is an exception:
 *     it stays valid until the last result was handed to the callback.
 *   - Memory of results belongs to the engine. It must stay valid until wrapperExecFree (of a call), until the next
 *     wrapperRead or wrapperDestroy (of a session), or until the callback returns.
 *   - Functions are called by several threads at a time where the manifest states a concurrency above 1, but for one
 *     session by one thread after the other.
 *   - A function may end only by returning: no C++ exception, no longjmp, no exit.
 */
#ifndef AIGES_WRAPPER_H
#define AIGES_WRAPPER_H

#include "type.h"

#ifdef __cplusplus
extern "C" {
#endif

/* [interface] Penstock itself reads the declarations from here on, so they hold no other preprocessor directives. */

/*
 * Functions of Penstock that an engine may call, from any thread, while the call of usrTag runs. They return 0, or -1 for
 * a usrTag that is unknown.
 */
typedef int (*wrapperMeterCustom)(const void *usrTag, const char *key, int count); /* adds to the usage of the call */
typedef int (*wrapperMetrics)(const char *usrTag, const char *key, pParamList labels, int64_t value);
typedef int (*wrapperTraceLog)(const void *usrTag, const char *key, const char *value); /* a line in the model's log */

/*
 * Receives results: a list of data when ret is 0, otherwise the engine's code and no data. The results of a call or session
 * end when a status is DataEnd or DataOnce for each key, or with the first ret that is not 0. Returns 0, or -1 when nothing
 * waits for results of usrTag any more.
 */
typedef int (*wrapperCallback)(const void *usrTag, pDataList respData, int ret);

/* Receives one function of Penstock. Called for each CtrlType, before wrapperInit. */
WrapperAPI int wrapperSetCtrl(CtrlType type, void *func);

/* Loads the engine, once. cfg is its configuration. */
WrapperAPI int wrapperInit(pConfig cfg);

/* Unloads the engine; nothing is called afterwards. Not called when the process is killed. */
WrapperAPI int wrapperFini(void);

/* Returns the message of a code, valid until the next call of this function. */
WrapperAPI const char *wrapperError(int errNum);

/* Returns the version of the engine. May be called before wrapperInit. */
WrapperAPI const char *wrapperVersion(void);

/* Loads a resource, such as words that should be recognised, under an id. */
WrapperAPI int wrapperLoadRes(pDataList perData, unsigned int resId);
WrapperAPI int wrapperUnloadRes(unsigned int resId);

/*
 * Begins a session and returns its handle. cb is NULL when results are to be read with wrapperRead. psrIds are the psrCnt
 * resources that the caller names. A failure is reported in *errNum.
 */
WrapperAPI const void *wrapperCreate(const char *usrTag, pParamList params, wrapperCallback cb, unsigned int psrIds[],
                                     int psrCnt, int *errNum);

/* Takes a part of a session's input. */
WrapperAPI int wrapperWrite(const void *handle, pDataList reqData);

/* Sets *respData to the results that are ready, or to NULL. Only in sessions without a callback. */
WrapperAPI int wrapperRead(const void *handle, pDataList *respData);

/* Ends a session, also one whose caller has left, and frees its results. No callback may follow. */
WrapperAPI int wrapperDestroy(const void *handle);

/* Runs a call and sets *respData to its results, which wrapperExecFree frees. */
WrapperAPI int wrapperExec(const char *usrTag, pParamList params, pDataList reqData, pDataList *respData,
                           unsigned int psrIds[], int psrCnt);

/* Frees the results of a wrapperExec that returned 0. Called once after it, from the same thread. */
WrapperAPI int wrapperExecFree(const char *usrTag, pDataList *respData);

/* Begins a call and returns; the results go to the callback. timeout is in milliseconds; 0: none. */
WrapperAPI int wrapperExecAsync(const char *usrTag, pParamList params, pDataList reqData, wrapperCallback callback,
                                int timeout, unsigned int psrIds[], int psrCnt);

/* Returns details of a session for the log, or NULL. Called once, before wrapperDestroy. */
WrapperAPI const char *wrapperDebugInfo(const void *handle);

/* [end of interface] */

#ifdef __cplusplus
}
#endif

#endif
