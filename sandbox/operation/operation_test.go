package operation_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-runtime/berth/sandbox/operation"
)

// Many clients that ask for the same thing at once share one piece of work.
func TestOperationsJoin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var ops operation.Set
		var ran atomic.Int32
		fn := func(ctx context.Context, op *operation.Operation) (string, error) {
			ran.Add(1)
			op.At("sleep")
			time.Sleep(time.Second)
			return "id", nil
		}
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				id, err := ops.Do(context.Background(), operation.Request{Key: "k", Digest: "d", Budget: time.Minute}, fn)
				if id != "id" || err != nil {
					t.Errorf("do = %q, %v", id, err)
				}
			})
		}
		all.Wait()
		if n := ran.Load(); n != 1 {
			t.Errorf("the work ran %d times", n)
		}
	})
}

// A client's deadline ends its waiting with the phase in the text; the work goes on, and a retry gets its result.
func TestOperationOutlivesCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var ops operation.Set
		fn := func(ctx context.Context, op *operation.Operation) (string, error) {
			op.At("attach network")
			select {
			case <-time.After(3 * time.Second):
				return "late", nil
			case <-ctx.Done():
				return "", ctx.Err()
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := ops.Do(ctx, operation.Request{Key: "run pod a", Digest: "d", Budget: time.Minute}, fn)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "attach network") {
			t.Fatalf("err = %v", err)
		}
		if _, err := ops.Do(context.Background(), operation.Request{Key: "run pod a", Digest: "other", Budget: time.Minute}, fn); !errors.Is(err, fs.ErrExist) {
			t.Fatalf("another request under the same key: %v", err)
		}
		id, err := ops.Do(context.Background(), operation.Request{Key: "run pod a", Digest: "d", Budget: time.Minute}, fn)
		if id != "late" || err != nil {
			t.Fatalf("retry = %q, %v", id, err)
		}
		if err := ops.Drain(context.Background()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestOperationBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var ops operation.Set
		_, err := ops.Do(context.Background(), operation.Request{Key: "k", Digest: "", Budget: time.Second}, func(ctx context.Context, _ *operation.Operation) (string, error) {
			<-ctx.Done()
			return "", fmt.Errorf("plugin: %w", ctx.Err())
		})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
	})
}
