package persistence

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// direct calls the member of this process instead of writing to a socket that the same process reads: framing, copying
// and two more goroutines a request cost as much as the datastore's own work. Watches stay on the connection, where
// the member ends those of a minority.
type direct struct {
	local     pb.KVServer
	connected pb.KVClient
}

var _ pb.KVClient = &direct{}

// keys is how keys are read and written: by the shortest way.
func (e Endpoints) keys(client *clientv3.Client) clientv3.KV {
	if e.Local == nil {
		return client.KV
	}
	return clientv3.NewKVFromKVClient(&direct{e.Local(), clientv3.RetryKVClient(client)}, client)
}

// Range asks again over the connection when there is no leader just now: it tries other members and waits for a new one.
func (d *direct) Range(ctx context.Context, in *pb.RangeRequest, opts ...grpc.CallOption) (*pb.RangeResponse, error) {
	out, err := d.local.Range(ctx, in)
	if status.Code(err) == codes.Unavailable {
		return d.connected.Range(ctx, in, opts...)
	}
	return out, err
}

// Txn is tried once, because a failure may have been a success: who asks knows what to look at.
func (d *direct) Txn(ctx context.Context, in *pb.TxnRequest, _ ...grpc.CallOption) (*pb.TxnResponse, error) {
	return d.local.Txn(ctx, in)
}

func (d *direct) Put(ctx context.Context, in *pb.PutRequest, _ ...grpc.CallOption) (*pb.PutResponse, error) {
	return d.local.Put(ctx, in)
}

func (d *direct) DeleteRange(ctx context.Context, in *pb.DeleteRangeRequest, _ ...grpc.CallOption) (*pb.DeleteRangeResponse, error) {
	return d.local.DeleteRange(ctx, in)
}

func (d *direct) Compact(ctx context.Context, in *pb.CompactionRequest, _ ...grpc.CallOption) (*pb.CompactionResponse, error) {
	return d.local.Compact(ctx, in)
}

// RangeStream is for lists that are too long for one answer; its chunks are made for a connection.
func (d *direct) RangeStream(ctx context.Context, in *pb.RangeRequest, opts ...grpc.CallOption) (pb.KV_RangeStreamClient, error) {
	return d.connected.RangeStream(ctx, in, opts...)
}
