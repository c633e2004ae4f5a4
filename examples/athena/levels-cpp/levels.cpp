/*
 * An Athena Serving engine in C++: reports how loud a sound is, whole or for each part of a stream.
 *
 * The sound is raw PCM: 16 bits, little-endian, one channel. Where there is a callback, one thread of the engine's own does
 * the work and hands over the results.
 */
#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "wrapper.h"

namespace {

constexpr int no_audio = 5001;
constexpr int odd_bytes = 5002;

std::atomic<long> results_alive{0};

// A piece of results, and the memory that it points to.
class Result {
  public:
    Result(std::string text, DataStatus status) : text_(std::move(text)) {
        node_.key = key_;
        node_.data = text_.data();
        node_.len = static_cast<unsigned int>(text_.size());
        node_.type = DataText;
        node_.status = status;
        node_.desc = &format_;
        format_.key = format_key_;
        format_.value = format_value_;
        format_.vlen = 4;
        ++results_alive;
    }
    Result(const Result &) = delete;
    Result &operator=(const Result &) = delete;
    ~Result() { --results_alive; }

    pDataList list() { return &node_; }

  private:
    std::string text_;
    char key_[7] = "levels", format_key_[7] = "format", format_value_[5] = "json";
    ParamList format_{};
    DataList node_{};
};

// The loudness of what was heard so far.
class Meter {
  public:
    void hear(const std::vector<std::int16_t> &samples) {
        for (const int sample : samples) {
            peak_ = std::max(peak_, std::abs(sample));
            energy_ += static_cast<double>(sample) * sample;
        }
        count_ += samples.size();
    }

    std::string described() const {
        char text[160];
        std::snprintf(text, sizeof text, "{\"samples\":%zu,\"peak\":%d,\"rms\":%.3f}", count_, peak_,
                      count_ == 0 ? 0.0 : std::sqrt(energy_ / static_cast<double>(count_)));
        return text;
    }

  private:
    std::size_t count_ = 0;
    int peak_ = 0;
    double energy_ = 0;
};

// The engine's thread: runs what it is given, in order.
class Worker {
  public:
    Worker() : thread_([this] { run(); }) {}
    ~Worker() {
        give({});
        thread_.join();
    }

    void give(std::function<void()> todo) {
        {
            const std::lock_guard<std::mutex> guard(lock_);
            waiting_.push_back(std::move(todo));
        }
        came_.notify_one();
    }

  private:
    void run() {
        while (true) {
            std::unique_lock<std::mutex> guard(lock_);
            came_.wait(guard, [this] { return !waiting_.empty(); });
            const auto todo = std::move(waiting_.front());
            waiting_.pop_front();
            guard.unlock();
            if (!todo) {
                return;
            }
            todo();
        }
    }

    std::mutex lock_;
    std::condition_variable came_;
    std::deque<std::function<void()>> waiting_;
    std::thread thread_; // last: it uses the others
};

struct Session {
    std::string tag;
    wrapperCallback callback;
    Meter meter;
    std::unique_ptr<Result> read; // of wrapperRead
    DataStatus status = DataBegin;
    bool fresh = false;
};

std::unique_ptr<Worker> worker;

// Waits until the engine's thread has done what it was given so far.
void wait_for_worker() {
    std::promise<void> idle;
    worker->give([&idle] { idle.set_value(); });
    idle.get_future().wait();
}

const DataList *audio_in(pDataList data) {
    while (data != nullptr && std::strcmp(data->key, "audio") != 0) {
        data = data->next;
    }
    return data;
}

int samples_of(pDataList data, std::vector<std::int16_t> &samples) {
    const DataList *audio = audio_in(data);
    if (audio == nullptr) {
        return no_audio;
    }
    if (audio->len % 2 != 0) {
        return odd_bytes;
    }
    samples.resize(audio->len / 2);
    std::memcpy(samples.data(), audio->data, audio->len);
    return 0;
}

std::unique_ptr<Result> measured(const std::vector<std::int16_t> &samples) {
    Meter meter;
    meter.hear(samples);
    return std::make_unique<Result>(meter.described(), DataOnce);
}

std::mutex executed_lock;
std::map<pDataList, std::unique_ptr<Result>> executed; // results of wrapperExec

} // namespace

extern "C" {

// Returns how many results the engine holds; only tests call it.
WrapperAPI long levelsAlive() { return results_alive; }

int wrapperSetCtrl(CtrlType, void *) { return 0; }

int wrapperInit(pConfig) {
    worker = std::make_unique<Worker>();
    return 0;
}

int wrapperFini() {
    worker.reset();
    return 0;
}

const char *wrapperError(int errNum) {
    switch (errNum) {
    case no_audio:
        return "there is no audio";
    case odd_bytes:
        return "audio must be samples of 16 bits";
    default:
        return "unknown error";
    }
}

const char *wrapperVersion() { return "2.0.1"; }

int wrapperLoadRes(pDataList, unsigned int) { return 0; }
int wrapperUnloadRes(unsigned int) { return 0; }

const void *wrapperCreate(const char *usrTag, pParamList, wrapperCallback cb, unsigned int[], int, int *errNum) {
    *errNum = 0;
    return new Session{usrTag, cb, {}, {}};
}

int wrapperWrite(const void *handle, pDataList reqData) {
    auto *session = static_cast<Session *>(const_cast<void *>(handle));
    std::vector<std::int16_t> samples;
    if (const int code = samples_of(reqData, samples); code != 0) {
        return code;
    }
    const DataStatus status = audio_in(reqData)->status;
    if (session->callback == nullptr) {
        session->meter.hear(samples);
        session->status = status;
        session->fresh = true;
        return 0;
    }
    worker->give([session, samples = std::move(samples), status] {
        session->meter.hear(samples);
        Result result(session->meter.described(), status);
        session->callback(session->tag.c_str(), result.list(), 0);
    });
    return 0;
}

int wrapperRead(const void *handle, pDataList *respData) {
    auto *session = static_cast<Session *>(const_cast<void *>(handle));
    *respData = nullptr;
    if (session->fresh) {
        session->fresh = false;
        session->read = std::make_unique<Result>(session->meter.described(), session->status);
        *respData = session->read->list();
    }
    return 0;
}

int wrapperDestroy(const void *handle) {
    const auto *session = static_cast<const Session *>(handle);
    wait_for_worker(); // it may still use the session
    delete session;
    return 0;
}

int wrapperExec(const char *, pParamList, pDataList reqData, pDataList *respData, unsigned int[], int) {
    std::vector<std::int16_t> samples;
    if (const int code = samples_of(reqData, samples); code != 0) {
        return code;
    }
    auto result = measured(samples);
    *respData = result->list();
    const std::lock_guard<std::mutex> guard(executed_lock);
    executed[*respData] = std::move(result);
    return 0;
}

int wrapperExecFree(const char *, pDataList *respData) {
    const std::lock_guard<std::mutex> guard(executed_lock);
    executed.erase(*respData);
    *respData = nullptr;
    return 0;
}

int wrapperExecAsync(const char *usrTag, pParamList, pDataList reqData, wrapperCallback callback, int, unsigned int[],
                     int) {
    std::vector<std::int16_t> samples;
    if (const int code = samples_of(reqData, samples); code != 0) {
        return code;
    }
    worker->give([tag = std::string(usrTag), samples = std::move(samples), callback] {
        const auto result = measured(samples);
        callback(tag.c_str(), result->list(), 0);
    });
    return 0;
}

const char *wrapperDebugInfo(const void *handle) {
    thread_local std::string text;
    wait_for_worker();
    text = static_cast<const Session *>(handle)->meter.described();
    return text.c_str();
}

} // extern "C"
